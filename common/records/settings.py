"""Settings of what outlives Redis's hour: the store, files, and the dispatcher that fills them."""

from pathlib import Path

from common.setting_types import ApiAddress, Hosts, SettingsGroup, StoreAddress, setting


class StoreSettings(SettingsGroup):
    """An empty address means a place in the data folder, or this machine."""

    given_url: StoreAddress = setting("OMNI_STORE_URL", "")
    ttl: int = setting("OMNI_STORE_TTL", 30 * 24 * 3600, ge=60)
    given_files_url: str = setting("OMNI_FILES_URL", "")
    given_api_url: ApiAddress = setting("OMNI_API_URL", "")  # where the dispatcher reaches the API
    webhook_hosts: Hosts = setting("OMNI_WEBHOOK_HOSTS", ())

    def database(self, data_dir: Path) -> str:
        """The database's address as SQLAlchemy reads it."""
        if self.given_url.startswith("sqlite"):
            return self.given_url
        if self.given_url:
            return f"postgresql+psycopg://{self.given_url.partition('://')[2]}"
        return f"sqlite:///{data_dir.resolve()}/omni.db"

    def files(self, data_dir: Path) -> str:
        """The folder of uploaded files and results, as fsspec reads it."""
        return self.given_files_url or f"file://{data_dir.resolve()}/files"
