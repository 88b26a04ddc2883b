"""What puts messages into a queue: the test producer and the load generator."""
