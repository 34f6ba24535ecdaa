"""What was made is marked, and can be checked: credential, invisible mark, ledger, label.

Each layer fails alone: a signature dies at the first re-save, an invisible mark can be removed and
copied, a ledger is local, a label can be cropped away. `verify` says which of them was found.
"""
