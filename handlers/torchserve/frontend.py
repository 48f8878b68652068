"""Start TorchServe's Java front end, with one constant of its HTTP library altered.

curl labels every body that it posts with -d or --data-binary as a form
(application/x-www-form-urlencoded) unless told otherwise. TorchServe 0.12 parses such a body as a
form whatever it is; a picture ends as a 500 with binary junk in its message. No setting turns that
off, nobody will release another TorchServe, and a proxy in front would carry every byte a second
time. So Java finds a copy of Netty's HttpHeaderValues before TorchServe's own, with another string
of the same length in that constant's place: no request matches it any more, and such bodies reach
the handler as they were sent. Forms with files (multipart/form-data) are parsed as before.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from handlers.torchserve.checks import CannotServe

LOGGING = Path(__file__).resolve().with_name("log4j2.xml")
CONSTANTS = "io/netty/handler/codec/http/HttpHeaderValues.class"
FORM = b"application/x-www-form-urlencoded"
NO_FORM = b"application/x-www-form-not-parsed"  # of the same length, which stands before it


def java(
    package: Path, environment: Mapping[str, str], settings: Mapping[str, str], temporary: Path
) -> list[str]:
    """Write the altered class, and give the command that runs the front end, without its options.

    Args:
        package: the folder of TorchServe's Python package, `ts`.
        environment: of the process; JAVA_HOME counts.
        settings: those of config.properties; vmargs and plugins_path are for whoever starts Java.
        temporary: an empty folder.

    Raises:
        CannotServe: if the constant isn't where TorchServe 0.12 has it.

    Source: ts/model_server.py of TorchServe 0.12, which starts it the same way otherwise.
    """
    jar, classes = package / "frontend" / "model-server.jar", temporary / "classes"
    alter(jar, classes)
    home = environment.get("JAVA_HOME")
    path = [str(classes), str(jar.with_name("*"))]
    if plugins := settings.get("plugins_path"):
        path.append(plugins if "*" in plugins else f"{plugins}/*")
    return [
        *(str(Path(home, "bin", "java")) if home else "java", *settings.get("vmargs", "").split()),
        f"-Dmodel_server_home={package.parent}",
        f"-Dlog4j.configurationFile={LOGGING.as_uri()}",
        f"-Djava.io.tmpdir={temporary}",
        *("-cp", os.pathsep.join(path), "org.pytorch.serve.ModelServer"),
    ]


def alter(jar: Path, folder: Path) -> None:
    """Write a copy of the class that names content types, without that of forms.

    Raises:
        CannotServe: if it isn't in the jar, or has the constant not just once.
    """
    try:
        with zipfile.ZipFile(jar) as archive:
            code = archive.read(CONSTANTS)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise CannotServe(f"{jar} can't be read ({error}): install TorchServe 0.12 anew") from None
    if code.count(FORM) != 1:
        raise CannotServe(f"{jar} is not TorchServe 0.12's: install the version of pyproject.toml")
    (folder / CONSTANTS).parent.mkdir(parents=True)
    (folder / CONSTANTS).write_bytes(code.replace(FORM, NO_FORM))
