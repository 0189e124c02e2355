"""Several runs as lanes of one launch (chapter 7): kernels of our own for small residual networks.

kernels, ends: the Triton kernels. tiles: how each is cut into programs. plan: a training step as a list of launches.
state: a run's weights, momentum and statistics, to and from the device. running: epochs of several runs, and when
lanes are there at all. Triton is imported where a plan is made, never before.
"""
