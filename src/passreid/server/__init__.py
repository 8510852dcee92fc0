"""The service: an HTTP API and a web page over an embedder and a gallery.

    request - guard -> routes -+-> images -> batching -> Embedder    threads, bounded queues
                               +-> engine -> Gallery                 threads, never the event loop

`app.create_app` builds the application and `serving.serve` runs it.
"""
