"""An image: where its patches lie, masks of them, its pixels."""
