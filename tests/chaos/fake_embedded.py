"""common.process.embedded without the mechanisms that CHAOS_MUTATIONS names; unchanged if it names none.

python -m tests.chaos.fake_embedded
"""

from common.process.embedded import main
from tests.chaos.mutations import break_embedded

if __name__ == "__main__":
    break_embedded()
    main()
