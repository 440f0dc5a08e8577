"""Flows as graphs: Mermaid, DOT for Graphviz, and JSON."""

from penstock.graph.build import FlowCounters, build_graph, service_counts
from penstock.graph.document import render_json
from penstock.graph.dot import render_dot
from penstock.graph.graphviz import IMAGE_FORMATS, render_image
from penstock.graph.mermaid import render_mermaid
from penstock.graph.model import BranchNode, Dependency, Edge, Graph, Node, StepNode

TEXT_FORMATS = {"mermaid": render_mermaid, "dot": render_dot, "json": render_json}
"""The functions that write a graph as text, by format. The first format is the default."""

__all__ = [
    "IMAGE_FORMATS",
    "TEXT_FORMATS",
    "BranchNode",
    "Dependency",
    "Edge",
    "FlowCounters",
    "Graph",
    "Node",
    "StepNode",
    "build_graph",
    "render_dot",
    "render_image",
    "render_json",
    "render_mermaid",
    "service_counts",
]
