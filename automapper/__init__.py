"""automapper: the dataflow with the lowest energy-delay product for every layer and bit-width of a network.

python -m automapper ckpt/finetune/weights.pt --device eyeriss
"""
