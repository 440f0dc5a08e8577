"""Write responses, and monitor the clients that read them."""
