"""A trained network on a device: integers on disk, ONNX per bit-width, and C.

    graph       what a network runs in evaluation, as few kinds of nodes (torch.fx)
    lower       its integers at every bit-width: a `program`, NumPy only
    oracle      the program in NumPy, which every other form is compared with
    to_onnx     ONNX models in QDQ form
    mapped      loops of a layer as AutoMapper's mapping has them, with counters
    to_c        C99: one network, all bit-widths; runtime/ holds what is the same for every network
    stored      switchable.safetensors and card.json, and back
    export      all files of an export, written as one unit; python -m instantnet.deploy

Nothing of the rest of the project imports this package.
"""
