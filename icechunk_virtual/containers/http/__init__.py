"""Web servers: what may be asked there and with which credentials, redirects and logins, and what answers are worth.

`client` is the door. Only `session` knows aiohttp, and is loaded late.
"""
