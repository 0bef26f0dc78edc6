"""The programs, one file each: `nlp-ssl NAME`, `python -m nlp_ssl.recipes.NAME`, or the file itself."""
