"""What `benches/proxy/run` is made of.

`options` is the command line, `tools` finds the programs, `processes` starts and ends them, `keys` makes keys, certificates and
tokens, `backend` is what stands behind the proxies, `peers` holds one file for each proxy, `check` is what a proxy must show
first, `shapes` the kinds of load, `load` runs what makes it, `measure` the order of it all, `report` the tables.
"""
