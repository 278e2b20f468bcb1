"""While a model trains: what is due, told, remembered and written."""
