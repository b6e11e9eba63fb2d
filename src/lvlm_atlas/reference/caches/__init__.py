"""How keys and values are held between prefill and the steps of decoding."""
