"""What logs and clients call the actions of aigq. Imports nothing, so that the service can use it too."""

VARIANTS = {
    "search": "search on_search view_search_results search_results query search_query submit_search",
    "click": "click item_click product_click result_click click_through select_item view_item view item_view "
    "product_view view_product item_detail product_detail",
    "cart": "cart add_to_cart add_item_to_cart item_add_to_cart cart_add addtocart",
    "purchase": "purchase buy order checkout conversion item_purchase",
    "hint_impression": "hint_impression suggestion_impression suggestions_shown",
    "hint_click": "hint_click suggestion_click suggestion_select autocomplete_click query_suggestion_click",
    "exit": "exit page_exit session_end leave",
}
"""Spellings of an action_name, besides the names of aigq's own actions; any other action is rejected."""
ACTION_NAMES = {spelling: action for action, spellings in VARIANTS.items() for spelling in spellings.split()}
