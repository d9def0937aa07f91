"""What devices fetch over HTTP: trust anchors, configuration, certificates, image metadata, blobs.

Nothing here reads a client certificate: a device's identity lives on the broker. What is public is public (anchors,
metadata); a certificate needs a claim, a blob needs a ticket.
"""
