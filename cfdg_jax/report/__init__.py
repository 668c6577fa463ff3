"""Statistics, tables, pictures and the HTML page; reads run folders only."""
