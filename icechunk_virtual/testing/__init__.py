"""For tests of programs that use repositories. Nothing here is loaded by the rest of the package."""
