"""Django, whose own command makes the template: a project that its tools began, with the lines that the README names."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.projects import Project, clean_environment, lean_pytest

DATABASE_URL = "postgresql://app:secret@db.invalid/app"

SETTINGS = """

import os
from urllib.parse import urlsplit

url = urlsplit(os.environ["DATABASE_URL"])
INSTALLED_APPS += ["shop"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the default takes half a second
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path[1:],
        "USER": url.username,
        "PASSWORD": url.password,
        "HOST": url.hostname,
        "PORT": url.port or "",
    }
}
"""

MODELS = """
from django.db import models

class Item(models.Model):
    name = models.CharField(max_length=100)
"""

MORE = """
class Price(models.Model):
    item = models.ForeignKey(Item, on_delete=models.CASCADE)
    cents = models.IntegerField()
"""

README = Path(__file__).parents[2] / "README.md"
CONFTEST = (
    README.read_text(encoding="utf-8")
    .partition("**Django**")[2]
    .partition("```python")[2]
    .partition("```")[0]
)

WITHOUT_PLUGIN = """
import os
import django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
django.setup()

from django.test.utils import setup_test_environment
setup_test_environment()
"""

WITH_PLUGIN = """
@pytest.fixture(scope="session")
def django_db_setup():
    pass  # the template has the tables

@pytest.fixture(scope="session", autouse=True)
def unblocked(django_db_blocker):
    with django_db_blocker.unblock():
        yield
"""

TESTS = """
from django.db import IntegrityError, connection, transaction
from django.test import Client, TestCase, TransactionTestCase
from django.contrib.auth.models import Permission, User
from shop.models import Item, Price
import pytest

@pytest.mark.parametrize("number", range(4))
def test_rows(number):
    assert not Item.objects.exists()
    Price.objects.create(item=Item.objects.create(name="a"), cents=number)
    with connection.cursor() as cursor:
        cursor.execute("create table other (id int)")

def test_what_migrating_made():
    assert Permission.objects.filter(codename="add_price").exists()

class TestOfDjango(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.item = Item.objects.create(name="of the class")

    def test_one(self):
        self.item.price_set.create(cents=1)
        assert Price.objects.count() == 1

    def test_two(self):
        assert Price.objects.count() == 0
        assert Item.objects.get() == self.item
        User.objects.create_superuser("me", password="secret")
        client = Client()
        assert client.login(username="me", password="secret")
        assert client.get("/admin/").status_code == 200

class TestOfTransactions(TransactionTestCase):
    def test_commits(self):
        with transaction.atomic():
            Item.objects.create(name="committed")
        with pytest.raises(IntegrityError), transaction.atomic():
            Price.objects.create(item_id=4711, cents=1)
        Item.objects.get()

    def test_again(self):
        assert not Item.objects.exists()
"""

MARKED = """
@pytest.mark.django_db
def test_marked():
    assert not Item.objects.exists()
    Item.objects.create(name="rolled back")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `django-admin startproject`, an app, and two migrations of it."""
    environment = {**dict(clean_environment()), "DATABASE_URL": DATABASE_URL}
    project = Project(tmp_path_factory.mktemp("made"), environment)
    (project.directory / "alembic.ini").unlink()
    shutil.rmtree(project.directory / "migrations")
    django = (sys.executable, "-m", "django")
    project.run(*django, "startproject", "mysite", ".").demand()
    project.run(sys.executable, "manage.py", "startapp", "shop").demand()
    settings = project.directory / "mysite/settings.py"
    settings.write_text(settings.read_text() + SETTINGS)
    for models in (MODELS, MODELS + MORE):
        project.write("shop/models.py", models)
        project.run(sys.executable, "manage.py", "makemigrations", "shop").demand()
    (project.directory / "shop/tests.py").unlink()
    return project.directory


@pytest.fixture
def site(project: Project, made: Path) -> Project:
    """A copy of them, with tests."""
    shutil.rmtree(project.directory)
    shutil.copytree(made, project.directory)
    project.environment["DATABASE_URL"] = DATABASE_URL
    project.write("test_it.py", TESTS)
    project.settings(
        migrate="python manage.py migrate",
        route=["DATABASE_URL"],
        watch=["mysite/*.py", "shop/*.py"],
        watch_env=["DJANGO_SETTINGS_MODULE"],
    )
    return project


@pytest.mark.campaign("applications")
@pytest.mark.parametrize("plugin", [False, True], ids=["alone", "pytest-django"])
def test_django(site: Project, *, plugin: bool) -> None:
    """Its models, TestCase, TransactionTestCase and client, in two processes or one; pytest-django may be there."""
    options = lean_pytest(*(["django"] if plugin else []))
    if plugin:
        site.write("pytest.ini", "[pytest]\nDJANGO_SETTINGS_MODULE = mysite.settings\n")
        site.write("test_it.py", TESTS + MARKED)
    site.write("conftest.py", CONFTEST + (WITH_PLUGIN if plugin else WITHOUT_PLUGIN))
    first = site.pytest("-n", "0" if plugin else "2", PYTEST_ADDOPTS=options).demand()
    assert f"{9 + plugin} passed" in first.out
    assert first.text.count("building template") <= 1  # none if the other one's is there
    assert "not in the fingerprint" not in first.text
    if not plugin:
        again = site.pytest(PYTEST_ADDOPTS=options).demand()
        assert "9 passed" in again.out
        assert "building template" not in again.text


@pytest.mark.campaign("applications")
def test_another_migration_is_another_template(site: Project) -> None:
    """Found in the directory of its app."""
    site.clonedb("build").demand()
    site.write(
        "shop/models.py", MODELS + MORE + "    currency = models.CharField(default='EUR')\n"
    )
    site.settings(migrate="python manage.py migrate", watch=[])
    site.clonedb("build").demand()
    site.run(sys.executable, "manage.py", "makemigrations", "shop").demand()
    told = site.clonedb("fingerprint", "--explain").demand().out
    assert "added    migrate    shop/migrations/0003_price_currency.py" in told
