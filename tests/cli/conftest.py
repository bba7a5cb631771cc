"""An operator at the command line of the running test service."""

import pytest
from click.testing import CliRunner

from cli.main import main
from common.settings import read_settings
from tests.service import RunningService


@pytest.fixture
def omni(service: RunningService):
    """Runs a command as an operator of the test's instance."""
    settings = read_settings(
        {
            "OMNI_PORT": str(service.port),
            "OMNI_DATA_DIR": str(service.folder),
            "REDIS_URL": service.env.get("REDIS_URL", ""),
        }
    )

    def run(*arguments, key=service.key, **options):
        given = {"url": service.url, "key": key, "settings": lambda: settings}
        runner = CliRunner()
        command, *rest = arguments
        return runner.invoke(main.commands[command], rest, obj=given, **options)

    return run


@pytest.fixture
def omni_of_service(omni):
    """The same, for a file that has an `omni` of its own."""
    return omni
