"""Foreign objects: what their URLs mean, who may read them, and how their bytes are fetched.

Knows nothing of repositories, snapshots or file formats.
"""
