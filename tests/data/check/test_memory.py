import sqlite3

from sdtune.data.check.memory import Memory, open_memory
from sdtune.data.check.pictures import PictureFacts

FACTS = PictureFacts(format="JPEG", width=10, height=20, sharpness=0.5, borders=(0.1, 0, 0, 0))


def database(folder):
    return next((folder / "pictures").glob("*.sqlite"))


def test_what_is_kept_is_recalled(tmp_path):
    with open_memory(tmp_path) as memory:
        assert memory.recall("a") is None
        memory.keep("a", FACTS)
    with open_memory(tmp_path) as memory:
        assert memory.recall("a") == FACTS


def test_a_damaged_file_is_forgotten_and_told_nowhere(tmp_path):
    with open_memory(tmp_path) as memory:
        memory.keep("a", FACTS)
    database(tmp_path).write_bytes(b"no database at all" * 100)
    with open_memory(tmp_path) as memory:
        assert memory.recall("a") is None
        memory.keep("a", FACTS)


def test_a_row_of_another_shape_is_passed_over(tmp_path):
    with open_memory(tmp_path) as memory:
        memory.keep("a", FACTS)
    with sqlite3.connect(database(tmp_path)) as connection:
        connection.execute("UPDATE pictures SET facts = ?", ('{"shape": 1}',))
    connection.close()
    with open_memory(tmp_path) as memory:
        assert memory.recall("a") is None


def test_a_folder_that_cannot_be_made_costs_the_memory_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    with open_memory(tmp_path / "file") as memory:
        memory.keep("a", FACTS)
        assert memory.recall("a") is None


def test_two_programs_may_share_it(tmp_path):
    with open_memory(tmp_path) as one, open_memory(tmp_path) as other:
        one.recall("a")
        other.keep("a", FACTS)
    with open_memory(tmp_path) as memory:
        assert memory.recall("a") == FACTS


def test_without_a_database_nothing_is_kept():
    memory = Memory()
    memory.keep("a", FACTS)
    assert memory.recall("a") is None
