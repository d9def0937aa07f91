"""Messages to publish after the transaction that decided them has committed."""
