"""`penstock simulate`: the pricing and inventory services of the orders flow, over HTTP and with faults on demand."""
