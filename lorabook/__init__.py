"""lorabook: an executable companion to four sources on how low-rank adaptation learns."""
