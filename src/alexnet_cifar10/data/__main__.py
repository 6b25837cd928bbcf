"""`python -m alexnet_cifar10.data [--download]`: say what is there of CIFAR-10. `--download` fetches it if need be."""

import sys

from alexnet_cifar10.data import DataError, find_root, load_images, read_cifar10

if sys.argv[1:] not in ([], ["--download"]):
    sys.exit(__doc__)
sys.stdout.reconfigure(errors="backslashreplace")  # the name of a folder may have letters that a console has not
try:
    label, root = find_root()
    print(f"{label} ({root})")
    provenance = (load_images("cifar10") if sys.argv[1:] else read_cifar10(label, root)).provenance
    print(f"  {provenance}: {'NOT the official files' if provenance.caveats else 'every file verified'}")
except DataError as error:
    sys.exit(str(error) if sys.argv[1:] else f"{error}\n{__doc__}")
