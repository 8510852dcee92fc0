"""The service: an HTTP API and a page over an embedder and a gallery.

    request ─ guard ─▶ routes ─┬▶ pictures ─▶ batching ─▶ Embedder    threads, one run at a time
                               └▶ engine   ─▶ Gallery                 threads, never the event loop

`app.create_app` builds the application, `serving.serve` runs it. Everything that can be set is in
`settings.Settings`.
"""
