"""From foreign files to chunk references: one plain synchronous function per format.

A scanner takes a `Source` and `ScanOptions` and returns a `Scanned` value. Nothing here knows of repositories,
sessions, containers or credentials.
"""
