from hypothesis import settings

settings.register_profile("calm", deadline=None)  # the machine that runs this may be busy
settings.load_profile("calm")
