"""A record, inside the file, of how it was coloured: by which model, with which options, from what.

XMP holds it, where IPTC has its DigitalSourceType too: IIM, the older IPTC, has no field for that.
It holds no time, so the same picture, model and options give the same bytes again.
Source: IPTC Photo Metadata Standard 2025.1; XMP specification, part 1 (ISO 16684-1).
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from colorizer import __version__

if TYPE_CHECKING:
    from colorizer.graph import Graph
    from colorizer.metadata import Metadata
    from colorizer.options import Options

_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# "Augmentation, correction or enhancement using a Generative AI model": what is in the photograph
# doesn't determine its colours, the network makes them up from those that it was trained on.
# algorithmicallyEnhanced, "without changing the main content ... such as sharpening", would say
# less than what was done; trainedAlgorithmicMedia more, since lightness is the photograph's.
COLOURED = _TYPES + "compositeWithTrainedAlgorithmicMedia"
_MAP = _TYPES + "dataDrivenMedia"  # "representation of data": show=uncertainty

_NAMESPACE = "urn:colorizer:provenance:1:"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_OURS = re.compile(rb"(?<![\w:/])colorizer:(\w+)\s*(?:>|=\s*[\"'])([^<\"']*)")
_OLD = re.compile(  # what a new record replaces
    rb"<rdf:Description(?:(?!</rdf:Description>).)*?xmlns:colorizer=.*?</rdf:Description>"
    rb"|<Iptc4xmpExt:(DigitalSourceType|AISystem\w*)\b[^>]*>.*?</Iptc4xmpExt:\1>"
    rb"|\sIptc4xmpExt:(?:DigitalSourceType|AISystem\w*)\s*=\s*(?:\"[^\"]*\"|'[^']*')",
    re.DOTALL,
)
_MAX_XMP = 65_500  # of a JPEG


def record(source: bytes, graph: Graph, options: Options) -> dict[str, str]:
    """Describe how a result comes about.

    Args:
        source: the photograph's file.
        graph: of the network.
        options: of the result; of several variants, with its own seed.
    """
    chosen: dict[str, Any] = {k: v for k, v in vars(options).items() if v is not None}
    if graph.recipe.head == "classification":
        chosen = {
            "decoding": graph.recipe.decoding,
            "temperature": graph.recipe.temperature,
            **chosen,
        }
    return {
        "DigitalSourceType": COLOURED if options.show == "colour" else _MAP,
        "Software": f"colorizer {__version__}",
        "Head": graph.recipe.head,
        "ModelSHA256": graph.checkpoint,
        "GraphSHA256": graph.sha256 or "none",  # of a checkpoint that was not exported
        "Engine": graph.engine if graph.sha256 else "eager",
        "Options": json.dumps(chosen, sort_keys=True, default=lambda hint: hint.entry),
        "SourceSHA256": hashlib.sha256(source).hexdigest(),
    }


def embed(metadata: Metadata, told: Mapping[str, str]) -> Metadata:
    """Add a record to the XMP of a picture."""
    xmp = _OLD.sub(b"", metadata.xmp)
    place = xmp.rfind(b"</rdf:RDF>")
    about = re.search(rb"rdf:about\s*=\s*[\"']([^\"'<]*)", xmp)
    lines = [
        f'<rdf:Description rdf:about="{about[1].decode("utf-8", "replace") if about else ""}"'
        f' xmlns:Iptc4xmpExt="{_IPTC}" xmlns:colorizer="{_NAMESPACE}">',
        f"<Iptc4xmpExt:DigitalSourceType>{told['DigitalSourceType']}"
        "</Iptc4xmpExt:DigitalSourceType>",
        "<Iptc4xmpExt:AISystemUsed>colorizer</Iptc4xmpExt:AISystemUsed>",
        f"<Iptc4xmpExt:AISystemVersionUsed>{__version__}</Iptc4xmpExt:AISystemVersionUsed>",
        *(
            f"<colorizer:{name}>{escape(value, {chr(34): '&quot;', chr(39): '&apos;'})}"
            f"</colorizer:{name}>"
            for name, value in told.items()
        ),
        "</rdf:Description>",
    ]
    own = "\n".join(lines).encode()
    if place >= 0 and len(xmp) + len(own) <= _MAX_XMP:
        return replace(metadata, xmp=xmp[:place] + own + b"\n" + xmp[place:])
    start = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta '
    start += 'xmlns:x="adobe:ns:meta/">\n<rdf:RDF '
    start += 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    end = b'\n</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>'
    return replace(metadata, xmp=start.encode() + own + end)


def read(file: bytes) -> dict[str, str]:
    """Find the record in a file of any format, which all hold XMP as it is; empty if none."""
    found = {
        name.decode(): html.unescape(value.decode("utf-8", "replace"))
        for name, value in _OURS.findall(file)
    }
    return found if {"Software", "SourceSHA256"} <= set(found) else {}
