"""Pictures of flows: as SVG, as Mermaid, as DOT for Graphviz, and as JSON."""

from penstock.files.pictures.document import document
from penstock.files.pictures.dot import dot
from penstock.files.pictures.mermaid import mermaid
from penstock.files.pictures.parts import Edge, Graph, Node
from penstock.files.pictures.svg import svg

FORMATS = {"svg": svg, "mermaid": mermaid, "dot": dot, "json": document}
"""What draws a graph, by the name of the format."""

__all__ = ["FORMATS", "Edge", "Graph", "Node", "document", "dot", "mermaid", "svg"]
