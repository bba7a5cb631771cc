"""common.process.embedded with the mechanisms broken that CHAOS_MUTATIONS names; with none named, the real thing.

python -m tests.chaos.fake_embedded
"""

from common.process.embedded import main
from tests.chaos.mutations import break_embedded

if __name__ == "__main__":
    break_embedded()
    main()
