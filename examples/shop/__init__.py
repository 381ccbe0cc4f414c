"""An order shop: what `make demo` runs. `taskflow worker examples.shop:app` serves it.

It needs Pillow, a mail receiver at SHOP_SMTP_PORT (`python -m examples.shop.smtp`), and a cluster at TASKFLOW_ADDRESS
(localhost:9003).
"""

from examples.shop.tasks import app, import_sales, make_thumbnail, send_confirmation

__all__ = ["app", "import_sales", "make_thumbnail", "send_confirmation"]
