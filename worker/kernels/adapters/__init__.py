"""Adapters beside matrix products: the products themselves stay as they are, packed ones too."""
