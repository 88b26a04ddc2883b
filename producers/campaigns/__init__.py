"""Push campaigns: an HTTP API and a page over the servers that hold the users.

``service`` knows what a campaign is, ``servers`` how to ask servers that may not answer, ``api`` speaks
HTTP. The servers themselves stand behind one small port (``ports``).
"""
