"""The page ``/fmware`` of the Dask dashboard, and its panels as pages of their own for JupyterLab.

The page polls one read-only route for figures; the scheduler makes them once a second for all viewers together, and
none while nobody asks. Bokeh draws in the browser and sends nothing back.
"""
