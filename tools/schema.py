"""Write config/schema.json from the models in pipeline.config."""

from pathlib import Path

from pipeline.config import json_schema
from pipeline.files import write_json

write_json(Path("config/schema.json"), json_schema())
