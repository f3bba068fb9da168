import unittest

from owners import refusal


class Owners(unittest.TestCase):
    def refusal(self, owner, domain=""):
        annotations = {} if owner is None else {"annotations": {"owner": owner}}
        return refusal({"metadata": {"name": "c", **annotations}}, "me", {"domain": domain})

    def test_a_service_has_an_owner(self):
        self.assertIsNone(self.refusal("ann@example.org"))
        self.assertEqual(self.refusal(None), "a Service must have an annotation owner")

    def test_the_owner_is_of_the_domain(self):
        self.assertIsNone(self.refusal("ann@example.org", "@example.org"))
        self.assertEqual(self.refusal("ann@example.com", "@example.org"), "me names ann@example.com, who is not of @example.org")
