"""What takes deliveries from a source, hands them to a route, and acks them."""
