"""Where images may be: a folder, a bucket, a web server, a zip in any of these, an ArcGIS layer."""
