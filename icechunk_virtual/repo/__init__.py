"""The engine: repositories on an object store. It knows no source file formats and no scanners."""
