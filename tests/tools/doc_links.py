"""Checks that every relative link in the Markdown files leads to a file and, with #, to a heading."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,}).*?^ {0,3}\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
INLINE = re.compile(r"\]\(\s*(?:<([^>\n]+)>|([^)\s]+))")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^>\s]+)>?", re.MULTILINE)
HTML = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=[\"']([^\"']+)[\"']")
HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
HTML_ANCHOR = re.compile(r"\b(?:id|name)=[\"']([^\"']+)[\"']")
ABSOLUTE = re.compile(r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*:|//)")


def markdown_files(root: Path) -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return sorted(path for name in set(listed.split("\0")) if name and (path := root / name).is_file())


def links(text: str) -> list[str]:
    prose = CODE.sub("", FENCE.sub("", text))
    found = [bracketed or plain for bracketed, plain in INLINE.findall(prose)]
    return found + REFERENCE.findall(prose) + HTML.findall(prose)


def anchors(text: str) -> set[str]:
    """The ids that GitHub gives the headings, and those set by hand."""
    prose = FENCE.sub("", text)
    result = set(HTML_ANCHOR.findall(prose))
    seen: dict[str, int] = {}
    for heading in HEADING.findall(prose):
        title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result


def broken_links(root: Path, file: Path) -> list[str]:
    problems = []
    for link in links(file.read_text(encoding="utf-8")):
        if ABSOLUTE.match(link):
            continue
        name, _, fragment = unquote(link).partition("#")
        base = root if name.startswith("/") else file.parent
        target = (base / name.lstrip("/")).resolve() if name else file
        if not target.is_relative_to(root):
            problems.append(f"{link} leads out of the repository")
        elif not target.exists():
            problems.append(f"{link} leads to no file")
        elif fragment and target.suffix == ".md" and fragment not in anchors(target.read_text(encoding="utf-8")):
            problems.append(f"{link} leads to no heading")
    return problems


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    files = markdown_files(root)
    problems = [f"{file.relative_to(root)}: {text}" for file in files for text in broken_links(root, file)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"doc links: {len(files)} files, {len(problems)} broken links")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
