"""Studies, which compare objectives: one recipe per dataset."""
