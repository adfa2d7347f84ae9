"""The tokenizer, WikiText-2 by staging and by download, and the bundled Wikipedia extract."""

import hashlib
import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from mufree.lab.data import DataError, Split, load, prepare, wiki_sample, wikitext2
from mufree.lab.data.text import build_text, encode, train_tokenizer
from mufree.study.parts import WikiSample, WikiText2

TRAIN = " = Title = \n \n" + " the cat sat on the mat , then the rat sat on the cat . \n" * 40
OTHER = " \n zyzzyva zyzzyva £ µ 漢字 🙂 \n" * 40
SETTINGS = WikiText2(name="wikitext2", vocab_size=270)


def stage(data_dir: Path, **texts: str) -> Path:
    (data_dir / "wikitext-2").mkdir(parents=True, exist_ok=True)
    for split, text in texts.items():
        (data_dir / "wikitext-2" / f"{split}.txt").write_bytes(text.encode())
    return data_dir


def test_decoding_gives_the_text_back() -> None:
    tokenizer = train_tokenizer(TRAIN, 270)
    for text in (TRAIN, OTHER, "no newline at the end", "a\r\nb\n\n\x00\u2028c"):
        tokens = encode(tokenizer, text)
        assert tokens.dtype == np.uint16
        assert tokenizer.decode(tokens.tolist()) == text


def test_vocabulary_is_the_bytes_and_merges_of_the_training_split_alone(tmp_path: Path) -> None:
    built = build_text({"train": TRAIN, "valid": OTHER}, 270, {})
    swapped = build_text({"train": OTHER, "valid": TRAIN}, 270, {})
    vocabulary, other = (Tokenizer.from_str(b.texts["tokenizer.json"]).get_vocab() for b in (built, swapped))
    assert len(vocabulary) == 270
    assert len([token for token in vocabulary if len(token) == 1]) == 256
    assert not [token for token in vocabulary if "zy" in token]
    assert [token for token in other if "zy" in token]
    alone = build_text({"train": TRAIN, "valid": "something else"}, 270, {})
    assert alone.texts == built.texts


def test_streams_are_shifted_by_one_and_bytes_per_token_count_bytes() -> None:
    built = build_text({"train": TRAIN, "valid": OTHER}, 270, {})
    split = built.splits["valid"]
    np.testing.assert_array_equal(split.x[1:], split.y[:-1])
    assert built.about["bytes_per_token"]["valid"] == len(OTHER.encode()) / (len(split.y) + 1)


def test_too_little_text_for_the_vocabulary_is_an_error() -> None:
    with pytest.raises(DataError, match=r"vocabulary of 25\d tokens, vocab_size asks for 300"):
        train_tokenizer("abab", 300)


def test_preparing_twice_gives_the_same_digest(tmp_path: Path) -> None:
    data_dir = stage(tmp_path, train=TRAIN, valid=OTHER, test=TRAIN + OTHER)
    for name in ("a", "b"):
        prepare(SETTINGS, tmp_path / name, data_dir)
    assert load(tmp_path / "a").digest == load(tmp_path / "b").digest


def test_staged_splits_play_the_parts_that_the_settings_give_them(tmp_path: Path) -> None:
    data_dir = stage(tmp_path, test=TRAIN, valid=OTHER)
    settings = WikiText2(name="wikitext2", train_split="test", valid_split="valid", test_split=None, vocab_size=270)
    prepare(settings, tmp_path / "out", data_dir)
    data = load(tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.decode([*data.train.x.tolist(), int(data.train.y[-1])]) == TRAIN
    assert tokenizer.decode([*data.valid.x.tolist(), int(data.valid.y[-1])]) == OTHER
    assert data.test is None
    assert data.manifest["published_splits"] == {"train": "test", "valid": "valid"}
    assert data.manifest["inputs"]["test.txt"]["sha256"] == hashlib.sha256(TRAIN.encode()).hexdigest()


def test_staging_in_part_is_refused_and_the_missing_file_named(tmp_path: Path) -> None:
    data_dir = stage(tmp_path, valid=OTHER, test=TRAIN)
    with pytest.raises(DataError, match=r"wikitext-2/train\.txt is missing; .* never mixed"):
        prepare(SETTINGS, tmp_path / "out", data_dir)
    assert not (tmp_path / "out").exists()


def test_staged_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    data_dir = stage(tmp_path, train=TRAIN, valid=OTHER, test=TRAIN)
    (data_dir / "wikitext-2" / "valid.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"valid\.txt is not UTF-8"):
        prepare(SETTINGS, tmp_path / "out", data_dir)


class Hub(ThreadingHTTPServer):
    """As much of the hub as a download of files needs: for each path its content, and the SHA-256 it claims."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files: dict[str, tuple[bytes, str]] = {}
        self.asked: list[str] = []

    def put(self, split: str, text: str, claimed: str | None = None) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        # As published: a row a line, and a line that is one blank became an empty row.
        rows = ["" if line == " \n" else line for line in text.splitlines(keepends=True)]
        buffer = io.BytesIO()
        parquet.write_table(pa.table({"text": rows}), buffer)
        content = buffer.getvalue()
        path = (
            f"/datasets/Salesforce/wikitext/resolve/{wikitext2.REVISION}/wikitext-2-v1/{split}-00000-of-00001.parquet"
        )
        self.files[path] = (content, claimed or hashlib.sha256(content).hexdigest())


class HubHandler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.asked.append(self.path)
        content, claimed = self.server.files.get(self.path, (b"", ""))
        self.send_response(200 if claimed else 404)
        self.send_header("Content-Length", str(len(content)))
        if claimed:
            self.send_header("ETag", f'"{claimed}"')
            self.send_header("X-Repo-Commit", wikitext2.REVISION)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def test_download_gives_the_same_data_as_staging(hub: Hub, tmp_path: Path) -> None:
    texts = {"train": TRAIN, "valid": OTHER, "test": TRAIN + OTHER}
    for split, text in texts.items():
        hub.put({"valid": "validation"}.get(split, split), text)
    prepare(SETTINGS, tmp_path / "downloaded", tmp_path / "empty")
    prepare(SETTINGS, tmp_path / "staged", stage(tmp_path / "data", **texts))
    downloaded, staged = load(tmp_path / "downloaded"), load(tmp_path / "staged")
    assert downloaded.digest == staged.digest
    assert wikitext2.REVISION in downloaded.manifest["version"]
    assert "Salesforce/wikitext" in downloaded.manifest["source"]
    assert "staged" in staged.manifest["source"]
    assert set(hub.asked) >= set(hub.files)


def test_download_other_than_the_hub_says_is_refused_by_name(hub: Hub, tmp_path: Path) -> None:
    hub.put("train", TRAIN, claimed="0" * 64)
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet is corrupt: expected SHA-256 0000"):
        prepare(SETTINGS, tmp_path / "out", tmp_path / "data")


def test_file_that_the_hub_lacks_gives_the_staging_advice(hub: Hub, tmp_path: Path) -> None:
    hub.put("train", TRAIN)
    with pytest.raises(DataError, match=r"(?s)validation-00000.*wikitext-2/valid\.txt.*`quickstart`"):
        prepare(SETTINGS, tmp_path / "out", tmp_path / "data")


def test_no_network_gives_the_staging_advice(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's pauses between tries, 23 s in all
    with ThreadingHTTPServer(("127.0.0.1", 0), HubHandler) as closed:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.server_port}")
    with pytest.raises(
        DataError, match=r"(?s)Could not download.*wikitext-2/train\.txt.*`quickstart` needs no download"
    ):
        prepare(SETTINGS, tmp_path / "out", tmp_path / "data")


@pytest.fixture(scope="module")
def pages() -> list[tuple[str, str]]:
    return list(wiki_sample.articles(wiki_sample._extract()))


def test_bundled_articles_are_split_whole(pages: list[tuple[str, str]]) -> None:
    split_of = wiki_sample.split_articles(pages)
    titles = {split: {title for title, _ in chosen} for split, chosen in split_of.items()}
    assert sum(len(names) for names in titles.values()) == len(set().union(*titles.values())) == len(pages) > 100
    assert len(titles["valid"]) == len(titles["test"]) == len(pages) // 10
    text = dict(pages)["Anthropology"]
    assert "Anthropology is the study of humans" in text
    assert not any(mark in text for mark in ("'''", "[[", "{{", "\n\n"))


def test_articles_are_those_of_the_dump(tmp_path: Path) -> None:
    import bz2

    body = "'''Ants''' are [[insect|insects]]. " * 60
    pages = [("Ants", 0, body), ("Ant", 0, "#REDIRECT [[Ants]]" + body), ("Talk:Ants", 1, body), ("Stub", 0, "'''S'''")]
    xml = "".join(
        f"<page><title>{title}</title><ns>{space}</ns><id>1</id><revision><text>{text}</text></revision></page>"
        for title, space, text in pages
    )
    dump = tmp_path / "dump.xml.bz2"
    dump.write_bytes(
        bz2.compress(
            f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.3/"><siteinfo/>{xml}</mediawiki>'.encode()
        )
    )
    assert list(wiki_sample.articles(dump)) == [("Ants", ("Ants are insects. " * 60).strip())]


@pytest.mark.slow
def test_bundled_text_is_prepared_from_those_articles(pages: list[tuple[str, str]], tmp_path: Path) -> None:
    prepare(WikiSample(name="wiki_sample"), tmp_path / "out", tmp_path)
    data = load(tmp_path / "out")
    assert data.test is not None
    assert data.classes == 512
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for split, articles in wiki_sample.split_articles(pages).items():
        stream: Split = getattr(data, split)
        text = tokenizer.decode([*stream.x.tolist(), int(stream.y[-1])])
        assert text == "".join(f"{title}\n\n{body}\n\n" for title, body in articles)


def test_fewer_articles_can_be_asked_for(tmp_path: Path) -> None:
    prepare(WikiSample(name="wiki_sample", articles=10, vocab_size=300), tmp_path / "out", tmp_path)
    assert load(tmp_path / "out").manifest["articles"] == {"train": 8, "valid": 1, "test": 1}
