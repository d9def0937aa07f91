"""Rules, offers and assignments: answers a device's check."""
