"""From web pages to documents: reading, rendering, filtering in FineWeb's order, and a reason for every drop."""
