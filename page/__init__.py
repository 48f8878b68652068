"""A page in the browser, in front of the server."""

import os

# Before gradio is imported, which reads the environment then.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nobody is told that you use this
# No proxy reaches this machine, neither the server nor the page, which gradio asks when it starts.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = f"{os.environ.get(_name, '')},127.0.0.1,localhost,::1".lstrip(",")
# SOCKS is what neither urllib nor gradio speaks, and gradio can't even be imported with it.
for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    if os.environ[_name].lower().startswith("socks"):
        del os.environ[_name]
