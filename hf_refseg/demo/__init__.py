"""The demo page: any systems on pictures and short videos in a browser. Only `page.py` needs gradio."""
