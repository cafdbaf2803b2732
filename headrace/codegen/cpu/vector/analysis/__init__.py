"""What is known about a kernel before code is written: addresses, masks, effects, demand."""
