"""Program in, program out: rewrites of jaxprs that obey a plan and decide nothing."""
