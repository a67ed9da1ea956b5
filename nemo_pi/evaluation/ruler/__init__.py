"""RULER's tasks (arXiv 2404.06654): prompts of any length, made here and scored as the authors score."""
