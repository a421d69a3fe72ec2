"""What gs costs: measured in a guest (guest/), evaluated, judged by goals, told and drawn here."""
