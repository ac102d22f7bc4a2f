"""The figures of the export report, each as SVG in the page's own colours."""
