import os
import sys

import purehello

assert os.environ["PKG_NAME"] == "purehello"
assert os.path.realpath(sys.prefix) == os.path.realpath(os.environ["PREFIX"]), sys.prefix
print(purehello.hello())
